"""Tasks that several recipes share: data, model, metric, baseline and picture in one module."""
