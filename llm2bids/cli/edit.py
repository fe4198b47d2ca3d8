"""Make an edit file: units of a map, a network or an atlas, and what is done to them.

The units of any statistical map in a dataset's space, of a network, or of regions of an atlas are
set to their calibration mean (or 0, off-topic values, a constant), scaled, or moved. The file is
taken by record --edit and lesion --edit, and in Python by llm2bids.edited. --export-model bakes
the edit into a checkpoint that any tool loads; where an architecture has no weight for it, that is
refused with the reason. Scaling the units of a topic's network induced nothing in the embedded
model: they are silent off topic.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.cli.options import add
from llm2bids.exceptions import UsageError
from llm2bids.intervention.edit import EditOptions, make_edit
from llm2bids.options import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser, "the dataset that the map was made from")
    text = "the edit file to write, or with --export-model alone to read"
    parser.add_argument("file", type=Path, metavar="EDIT.json", help=text)
    options.of(parser, EditOptions)
    group = parser.add_argument_group("checkpoint")
    text = "bake the edit into the model's weights, and write them here"
    add(group, "--export-model", text, type=Path, metavar="FOLDER")
    add(group, "--model", "the dataset's model, where its name does not lead to it", metavar="NAME")
    add(group, "--device", "auto, cpu, cuda, cuda:N or mps", "auto")


def run(args: argparse.Namespace) -> int:
    """Make the edit, or read it, and bake it where that is asked for."""
    from llm2bids.dataset.read import open_dataset
    from llm2bids.intervention.subject import load_recorded
    from llm2bids.model.edit import load_edit

    asked, named = options.read(args, EditOptions), (args.stat_img, args.network, args.atlas)
    if args.export_model is not None and all(source is None for source in named):
        known = arguments(EditOptions).items()
        if given := [item.flag.split()[0] for name, item in known if asked[name] != item.default]:
            raise UsageError(
                f"{', '.join(given)}: without a map, a network or an atlas {args.file} is read as "
                "it is; leave it out"
            )
        edit = load_edit(args.file)
    else:
        if args.file.exists():
            raise UsageError(f"{args.file}: is there already; expected the name of a new file")
        edit = make_edit(args.bids_dir, **asked)
        edit.save(args.file)
        roles = ", ".join(dict.fromkeys(site.role for site in edit.sites))
        print(f"{args.file}: {edit.n_units:,} units of {roles} ({edit.criterion})")
    if args.export_model is not None:
        from llm2bids.model.bake import bake

        dataset = open_dataset(args.bids_dir)
        loaded, _ = load_recorded(dataset, model=args.model, device=args.device)
        difference = bake(loaded, edit, args.export_model)
        print(f"{args.export_model}: logits within {difference:.1g} of the edited model's")
    return 0
