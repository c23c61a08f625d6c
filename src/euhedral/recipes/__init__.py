"""One YAML file a named system: `about` (title, paper, steps, evaluations, status), `family`, `model` and `train`.

A file `NAME.yaml` put into this folder is the recipe NAME of `euhedral train --recipe NAME` and `euhedral recipes`; nothing
else has to be told of it. `model` and `train` hold what differs from the defaults of the family's configuration and of
`TrainConfig`; comments say where each value comes from.
"""
