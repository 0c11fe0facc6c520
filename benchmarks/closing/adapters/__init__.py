"""One small server for each framework, serving the behaviours that `job` names."""
