"""Steer the model towards a topic, or away from it, and show what that costs.

Add a direction to the residual stream at every token: the difference of the means of on and off
texts, the map itself, or (to take a topic away) the own topic against the others. Layer and
strength are searched on one half of held-out prompts and reported on the other, always beside
random and shuffled directions of the same norm and a prompt that asks for the topic: what the text
is about (a classifier, with its held-out accuracy, and replay in the intact model), its negative
log likelihood under the intact model, distinct-2, and the text itself. Scaling the units of a
network (an edit of kind scale) induced no topic: they are silent off topic.
"""

from llm2bids.cli import options
from llm2bids.intervention.steer import SteerOptions
from llm2bids.intervention.subject import SubjectOptions

add_arguments, run = options.described(
    "steer", SteerOptions, SubjectOptions, positionals=options.analysis
)
