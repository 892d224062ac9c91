"""linfdist: certified l_inf robustness with l_inf-distance networks."""
