"""The verbs that scan a model: record, replay, plan."""
