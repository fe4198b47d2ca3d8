"""Take in participants that were recorded by themselves.

`record --participant-label` leaves each participant in a hidden folder of the dataset (a shard).
This moves whole ones to their places, without a model; called again it goes on where it stopped.
"""

import argparse

from llm2bids.cli import options


def _arguments(parser: argparse.ArgumentParser) -> None:
    options.bids_dir(parser, "folder of the dataset, which `record --prepare` began")
    text = "take in what is there, although runs are missing that the scan was prepared for"
    options.flag(parser, "--allow-missing", text)
    text = "take a shard's run where the dataset has another recording of it"
    options.flag(parser, "--overwrite", text)


add_arguments, run = options.described("merge", positionals=_arguments, then=options.cite)
