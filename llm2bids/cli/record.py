"""Scan a model: write (or resume, or add participants to) a BIDS dataset.

Run a paradigm through a model, record every layer output at every generated token, and write it as
a BIDS dataset with a derivative. Called again with the same options it goes on where it stopped;
with more participants it adds them.

Participants are independent: --n-workers records them in processes of this machine. For any engine
that starts processes elsewhere, --prepare writes what is there before the first run, then
--participant-label records participants by themselves, and `merge` takes them in.
"""

from llm2bids.cli import options
from llm2bids.scan.options import ScanOptions

add_arguments, run = options.described(
    "record",
    ScanOptions,
    positionals=options.dataset_to_go_on_with,
    more=(options.shards, options.overwrite),
    then=options.cite,
)
