"""Change learnt from yearly maps and rolled out: network, forecast, scores."""
