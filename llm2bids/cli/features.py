"""Write layer values as the files that encoding toolkits read.

Takes what is on disk, of any dataset of ours; nothing is scanned again.
"""

from llm2bids.cli import options
from llm2bids.comparison.features import FeatureOptions

add_arguments, run = options.described(
    "features",
    FeatureOptions,
    positionals=options.dataset_and_folder,
    show=lambda paths: "\n".join(map(str, paths)),
)
