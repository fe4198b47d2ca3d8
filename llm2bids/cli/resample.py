"""Move an image between arrangements of the same model (index, functional, random).

Move every unit's value to the voxel that the unit has in another arrangement of the same weights
and sites. It is a permutation: nothing is interpolated, and moving back gives the same image.
Spaces of other models or sites are refused.
"""

import argparse
import tempfile
from pathlib import Path

from llm2bids.cli import options
from llm2bids.exceptions import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.image(parser)
    text = "a dataset in the arrangement that is wanted, or 'index'"
    options.add(parser, "--to", text, required=True, metavar="SPACE_OR_BIDS_DIR")
    text = "default: STAT_IMG's name with the arrangement, in this folder"
    options.add(parser, "-o, --output", text, type=Path, metavar="OUT")


def run(args: argparse.Namespace) -> int:
    """Write the image and say where."""
    import nibabel as nib

    from llm2bids.dataset.read import open_dataset
    from llm2bids.space.arrange import index_space
    from llm2bids.space.resample import resample

    source = open_dataset(options.dataset_of(args))
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
    way = f"{source.space.arrangement} to {target.arrangement} arrangement"
    print(f"{args.stat_img.name}: {way}, {output}")
    return 0
