"""From a network to the model: edits, and what they do."""
