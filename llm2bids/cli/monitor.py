"""Score the activity of networks at each token, and show what the scores tell apart.

The score of a network is the mean of its units in calibration standard deviations. Each run of the
dataset gets a BIDS time series of scores (*_desc-monitor_timeseries.tsv, beside the participants'
maps). On held-out prompts: areas under the ROC curve of on against off and against other topics,
over the prompt, at its last token, at the first answer token and over the answer, beside a linear
probe of the residual stream and word counts of the prompt on the same split; and detections by
tokens of reading. A score separates on from off, not a topic from a related one: no safety gate.
"""

from llm2bids.cli import options
from llm2bids.intervention.monitor import MonitorOptions
from llm2bids.intervention.subject import SubjectOptions

add_arguments, run = options.described(
    "monitor", MonitorOptions, SubjectOptions, positionals=options.analysis
)
