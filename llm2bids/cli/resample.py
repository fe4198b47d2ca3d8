"""``llm2bids resample``: an image in another arrangement of the same model."""

import argparse
import tempfile
from pathlib import Path

from llm2bids.cli import options
from llm2bids.cli.locate import find_dataset
from llm2bids.exceptions import UsageError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "resample",
        parents=[options.verbosity()],
        help="move an image between arrangements of the same model (index, functional, random)",
        description="Move every unit's value to the voxel that the unit has in another arrangement "
        "of the same weights and sites. It is a permutation: nothing is interpolated, and moving "
        "back gives the same image. Spaces of other models or sites are refused.",
    )
    parser.add_argument("stat_img", type=Path, metavar="STAT_IMG", help="a NIfTI image")
    parser.add_argument(
        "--to",
        required=True,
        metavar="SPACE_OR_BIDS_DIR",
        help="a dataset in the arrangement that is wanted, or 'index'",
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="BIDS_DIR",
        help="the dataset that the image was made from (default: the one around the image)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT",
        help="default: STAT_IMG's name with the arrangement, in this folder",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the image and say where."""
    import nibabel as nib

    from llm2bids.dataset.read import open_dataset
    from llm2bids.space.arrange import index_space
    from llm2bids.space.resample import resample

    source = open_dataset(args.dataset or find_dataset(args.stat_img))
    to_index = args.to == "index"
    target = index_space(source.space) if to_index else open_dataset(args.to).space
    stem, dot, extension = args.stat_img.name.partition(".")
    output = args.output or Path(f"{stem}_{target.arrangement}{dot}{extension}")
    if output.exists():
        raise UsageError(f"{output} is there already; name another file with -o")
    if not output.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"{output}: expected a name that ends in .nii or .nii.gz; give it with -o")
    image = resample(args.stat_img, source.space, target, calibration=source.calibration)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        staged = Path(folder) / output.name
        nib.save(image, staged)
        staged.replace(output)
    print(  # noqa: T201
        f"{args.stat_img.name}: {source.space.arrangement} to {target.arrangement} arrangement, "
        f"{output}"
    )
    return 0
