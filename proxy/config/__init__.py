"""The settings: every key with its default, unit and reason, and the places that they come from.

Knows YAML files, the environment and the shape of what may be set; knows nothing of the parts that are set up with
it. Whatever can't be used becomes one `ConfigInvalid` whose line names the key, the value and the fix.
"""
