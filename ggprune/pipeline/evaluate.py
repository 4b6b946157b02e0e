"""Evaluations, each in a child process: no bad file ends the caller's.

What they do is written where they come from.
"""

from __future__ import annotations

from ggprune.evaluation import choices, health, perplexity, tasks
from ggprune.runtime.isolate import in_child

evaluate = in_child(perplexity.evaluate)
evaluate_strided = in_child(perplexity.evaluate_strided)
score_choices = in_child(choices.score_choices)
run_tasks = in_child(tasks.run_tasks)
check_health = in_child(health.check_health)
