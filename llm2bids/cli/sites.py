"""Print the modules that can be recorded, with their units.

Print the sites of a model as a table (module, layer, role, width, heads) and the totals. Modules
that are left out are listed with the reason by --skipped.
"""

import argparse
import sys

from llm2bids.cli import options
from llm2bids.scan.options import ScanOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.of(parser, ScanOptions, groups=("model",))
    text = "list the modules that are left out, and why"
    options.flag(parser, "--skipped", text)
    options.flag(parser, "--tsv", "tab-separated, without totals")


def run(args: argparse.Namespace) -> int:
    """Print the table of sites."""
    import pandas as pd

    from llm2bids.model.exactness import exact_sites
    from llm2bids.model.load import load_model
    from llm2bids.model.sites import select_sites

    loaded, table, _ = exact_sites(options.call(load_model, args, name_or_path=args.model))
    if args.skipped:
        skipped = pd.DataFrame(table.skipped, columns=["module", "reason"])
        sys.stdout.write(skipped.to_csv(sep="\t", index=False))
        return 0
    sites = select_sites(table, ScanOptions(**options.read(args, ScanOptions)).sites)
    frame = pd.DataFrame(
        [(s.name, s.layer, s.role, s.width, s.n_heads, s.head_size) for s in sites],
        columns=["module", "layer", "role", "width", "heads", "head_size"],
    ).astype({"layer": "Int64", "heads": "Int64", "head_size": "Int64"})
    if args.tsv:
        sys.stdout.write(frame.to_csv(sep="\t", index=False, na_rep="n/a"))
        return 0
    print(frame.astype(object).where(frame.notna(), "n/a").to_string(index=False) + "\n")
    n_layers = frame["layer"].nunique()
    residual = int(frame.loc[frame["role"] == "residual", "width"].sum())
    total = int(frame["width"].sum())
    print(
        f"{loaded.name}: {len(frame)} sites in {n_layers} layers, {total:,} units"
        + (f" ({total - residual:,} without the residual stream)" if 0 < residual < total else "")
        + (f"; left out: {len(table.skipped)} (--skipped says why)" if table.skipped else "")
    )
    return 0
