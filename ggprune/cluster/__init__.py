"""Measuring on many processes and machines, by Dask's `distributed`: the numbers of one process.

place      what a worker process is told when it starts: threads, memory, other paths of files
work       what travels: what all depends on, a task, an answer, who a worker says it is
engine     in a worker: the loaded model that answers
nanny      starts workers with settings that fit, and keeps the last words of those that die
address    where a scheduler is
plans      which worker processes a machine gets
serve      `ggprune worker`
roll       who is there, as the scheduler knows it
members    workers and what they are sent
crew       at the coordinator: workers that may take part, what each is doing
policy     which work comes next, and how much of it at once
likeness   do workers compute the same bits
kinds      workers that compute other bits
inorder    independent tasks, answers in their order
rows       a row source that has others compute
evaluate   evaluation, group by group of chunks
reduce     sums over chunks whose bits do not depend on who adds them
connect    a cluster on this machine, or a scheduler somewhere

Nothing outside of this package knows of Dask, and nothing here decides what is measured.
"""
