"""Side by side with peers: one worker process for each measurement, the contenders in turn, ratios of medians."""
