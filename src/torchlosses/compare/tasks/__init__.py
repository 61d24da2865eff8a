"""What each task feeds a loss, and how it judges the encoder that comes of it.

base             a task: data split and scaled, batches, what every task answers
forms            the form of scores that a loss is usually fed
classification   a head on the encoder tells classes apart, or says which labels hold
retrieval        embeddings trained on some classes retrieve others
pairs            two towers find the right alternative of another kind
ranking          a scorer orders the documents of each query
"""

from torchlosses.compare.tasks.base import Task
from torchlosses.compare.tasks.classification import Classification
from torchlosses.compare.tasks.pairs import Pairs
from torchlosses.compare.tasks.ranking import Ranking
from torchlosses.compare.tasks.retrieval import Retrieval

__all__ = ["TASKS", "Classification", "Pairs", "Ranking", "Retrieval", "Task"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Retrieval, Pairs, Ranking)}
