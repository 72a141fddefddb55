"""Methods, one module each: configuration, networks, objective and learner."""
