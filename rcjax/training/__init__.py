"""Training: fine-tunes a checkpoint to rank, under the mask of the layout that it will be served with."""
