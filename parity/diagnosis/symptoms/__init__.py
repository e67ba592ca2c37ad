"""What can be seen in a wrong tensor: places, offsets, factors, lags, and what proves a cause."""
