"""Find the units that answer more to one kind of text than to another.

Takes a localizer that was read (`llm2bids read OUT --stimuli langloc`). Writes a t map, the network
of the top units, their layers, and how alike they are in halves and folds of the trials.
"""

from llm2bids.cli import options
from llm2bids.comparison.localizer import LocalizerOptions

add_arguments, run = options.described(
    "localize", LocalizerOptions, positionals=options.dataset_and_folder
)
