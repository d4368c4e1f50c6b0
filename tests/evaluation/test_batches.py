import random

from vtr_ray.evaluation.batches import form_batches


def test_batches_hold_every_sample_once_and_one_kind_each():
    generator = random.Random(0)
    exact = [generator.random() < 0.6 for _ in range(101)]
    lengths = [generator.randrange(5, 40) for _ in range(101)]
    batches = form_batches(exact, lengths, 8)
    assert sorted(index for batch in batches for index in batch) == list(range(101))
    for batch in batches:
        assert 1 <= len(batch) <= 8
        assert len({exact[index] for index in batch}) == 1
    assert len(batches) == -(-sum(exact) // 8) + -(-(101 - sum(exact)) // 8)


def test_similar_lengths_are_together_and_ties_keep_the_order():
    assert form_batches([True] * 6, [9, 2, 9, 2, 5, 2], 2) == [(1, 3), (5, 4), (0, 2)]
    assert form_batches([False, True, False], [1, 1, 1], 2) == [(1,), (0, 2)]


def test_one_batch_size_gives_one_sample_each():
    assert form_batches([True, False], [3, 4], 1) == [(0,), (1,)]
