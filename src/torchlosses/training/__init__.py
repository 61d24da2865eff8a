"""What shapes training beside the loss: which examples meet in a batch."""

from torchlosses.training.batches import BatchBinding, ClusterBatchSampler, balanced_clusters, balanced_subclasses

__all__ = ["BatchBinding", "ClusterBatchSampler", "balanced_clusters", "balanced_subclasses"]
