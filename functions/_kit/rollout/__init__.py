"""How a version of a model comes to serve: state, evidence, verdicts, changes."""
