"""List which neurons and modules to train for a topic, as each way to choose them would have it.

Neurons of the MLPs (a row of the gate and up projections, a column of the down projection) and
modules, with effect, share of the network, Fisher information, first-order gain on held-out text of
the topic and spillover to other text; at a budget, the network, the Fisher choice, all, and random
neurons of the same layers. A network shows where training stays local, the gradient where it helps
most; the share of a module in a network does not choose modules for LoRA. With --trial each choice
is fine-tuned for a few steps at the same number of parameters, beside LoRA. Results are written to
group/targets of the analysis; llm2bids.export_lora and its like make files of them for peft, torch
and llama.cpp.
"""

from llm2bids.cli import options
from llm2bids.intervention.subject import SubjectOptions
from llm2bids.intervention.targets import TargetsOptions
from llm2bids.intervention.trial import TrialOptions

add_arguments, run = options.described(
    "targets", TargetsOptions, TrialOptions, SubjectOptions, positionals=options.analysis
)
