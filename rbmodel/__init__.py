"""Real/bogus classifiers: networks, training recipes, benchmark and report."""
