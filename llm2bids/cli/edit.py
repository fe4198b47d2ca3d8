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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser, "the dataset that the map was made from")
    text = "the edit file to write, or with --export-model alone to read"
    parser.add_argument("file", type=Path, metavar="EDIT.json", help=text)
    _add_units(parser)
    group = parser.add_argument_group("edit")
    methods = ("mean", "zero", "resample", "constant", "scale", "add")
    text = (
        "set to the calibration mean, to zero, to values at off-topic tokens, or to --value; scale "
        "by --value; add --value times the map, in calibration sd"
    )
    add(group, "--method", text, "mean", choices=methods)
    add(group, "--value", "see --method", type=float, metavar="X")
    text = "letters and digits; names the session of a scan of the edited model"
    add(group, "--label", text, "lesion", metavar="LABEL")
    add(group, "--seed", "of resample", 0)
    group = parser.add_argument_group("checkpoint")
    text = "bake the edit into the model's weights, and write them here"
    add(group, "--export-model", text, type=Path, metavar="FOLDER")
    add(group, "--model", "the dataset's model, where its name does not lead to it", metavar="NAME")
    add(group, "--device", "auto, cpu, cuda, cuda:N or mps", "auto")


def _add_units(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("units")
    add(group, "--map", "statistical map", dest="stat_img", type=Path, metavar="IMG")
    text = "percent of the units of the sites, largest first (default: 1)"
    add(group, "--top", text, dest="top_percent", type=_percent, metavar="P")
    add(group, "--threshold", "units beyond it", type=float, metavar="X")
    add(group, "--sign", "values that count", "both", choices=("both", "positive", "negative"))
    add(group, "--network", "table of a network, in place of a map", type=Path, metavar="TSV")
    add(group, "--atlas", "regions, in place of a map", choices=("sites", "heads"))
    several = {"action": "append", "metavar": "NAME"}
    add(group, "--region", "name in the atlas; repeatable", dest="atlas_labels", **several)
    text = "sites, as for record (default: act_fn or what plays its part; all of a network)"
    add(group, "--sites", text, action="append", metavar="PATTERN")


def _percent(text: str) -> float:
    return float(text.removesuffix("%"))


def run(args: argparse.Namespace) -> int:
    """Make the edit, or read it, and bake it where that is asked for."""
    from llm2bids.dataset.read import open_dataset
    from llm2bids.intervention.edit import make_edit
    from llm2bids.intervention.subject import load_recorded
    from llm2bids.model.edit import load_edit

    named = args.stat_img, args.network, args.atlas
    if args.export_model is not None and all(source is None for source in named):
        edit = load_edit(args.file)
    else:
        if args.file.exists():
            raise UsageError(f"{args.file}: is there already; expected the name of a new file")
        dataset = open_dataset(args.bids_dir)
        labels = tuple(args.atlas_labels or ())
        edit = options.call(make_edit, args, dataset=dataset, atlas_labels=labels)
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
