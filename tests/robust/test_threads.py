"""Several threads at one network: every answer is a single thread's, and the network untouched."""

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
import torch
from helpers import small_baselines
from helpers.threads import one_thread

from linfdist.data import DatasetInfo, ImageSet, to_pixels
from linfdist.evaluation import clean_and_certified, evaluate
from linfdist.nn import NetConfig, build_net, frozen, reestimate_mean_shift
from linfdist.robust import (
    guided_pgd,
    interval_certified,
    interval_radius,
    margin_radius,
    pgd,
    sound_certified,
    square_attack,
)

EPS = Fraction(1, 50)
THREADS, ROUNDS = 4, 6


def dist_net(kind):
    torch.manual_seed(1)
    config = NetConfig(kind=kind, hidden=(16, 16), mlp_hidden=None if kind == "net" else 16)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=0.3)
    reestimate_mean_shift(net, [torch.rand(256, 1, 4, 4)])
    return net


NETS = {
    "net": lambda: dist_net("net"),
    "net_mlp": lambda: dist_net("net_mlp"),
    "groupsort": lambda: small_baselines.small("groupsort").float(),
    "cnn7_bn": lambda: small_baselines.small("cnn7_bn").float(),
}


def calls_on(net):
    """What threads do at once, each with random numbers of its own."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (16, *net.input_shape), generator=generator).to(torch.uint8)
    x = to_pixels(images)
    with frozen(net) as still, torch.no_grad():
        labels = still(x).argmax(1)
    info = DatasetInfo(
        name="noise",
        title="Noise",
        input_shape=net.input_shape,
        num_classes=net.num_classes,
        mean=(0.5,) * net.input_shape[0],
        std=0.3,
        eps=EPS,
    )
    test = ImageSet(images, labels, info)

    def seeded():
        return torch.Generator().manual_seed(7)

    calls = {
        "evaluate": lambda: evaluate(net, test, EPS)[1].to_csv(),
        "watched": lambda: clean_and_certified(net, test, eps=EPS),
        "certified": lambda: interval_certified(net, x, labels, EPS).tolist(),
        "radius": lambda: interval_radius(net, x, labels, 0.2, 4).tolist(),
        "pgd": lambda: pgd(net, x, labels, EPS, generator=seeded()).adversarial.tolist(),
        "guided": lambda: guided_pgd(
            net, x, labels, EPS, guide=float("inf"), num_steps=4, generator=seeded()
        ).adversarial.tolist(),
        "square": lambda: square_attack(
            net, x, labels, EPS, num_queries=8, generator=seeded()
        ).adversarial.tolist(),
    }
    if hasattr(net, "lipschitz"):
        calls["margin"] = lambda: margin_radius(net, x, labels).tolist()
    if isinstance(net.config, NetConfig):
        calls["sound"] = lambda: sound_certified(net, images, labels, EPS).tolist()
    return calls


def of(net):
    return [
        (
            module.training,
            type(module),
            *((n, v.requires_grad, v.grad, v.tolist()) for n, v in module.named_parameters()),
            *((n, v.tolist()) for n, v in module.named_buffers()),
        )
        for module in net.modules()
    ]


@pytest.mark.parametrize("name", NETS)
def test_threads_get_what_one_thread_gets_and_leave_the_network_alone(name):
    with one_thread():
        net = NETS[name]().train()
        calls = calls_on(net)
        expected = {key: call() for key, call in calls.items()}
        before = of(net)
        start = threading.Barrier(THREADS)

        def work(number):
            torch.set_num_threads(1)
            start.wait()
            keys = sorted(calls, key=lambda key: hash((key, number)))
            return [key for _ in range(ROUNDS) for key in keys if calls[key]() != expected[key]]

        with ThreadPoolExecutor(THREADS) as pool:
            wrong = [key for found in pool.map(work, range(THREADS)) for key in found]
        assert wrong == []
        assert of(net) == before and net.training


def test_a_network_may_train_while_threads_certify_others():
    """Gradients are on in this thread, and its network stays in training mode."""
    with one_thread():
        other, net = dist_net("net"), dist_net("net").train()
        calls, stop = calls_on(other), threading.Event()
        expected = calls["margin"]()
        seen = []

        def certify():
            while not stop.is_set():
                seen.append(calls["margin"]() == expected)

        thread = threading.Thread(target=certify)
        thread.start()
        try:
            for _ in range(100):
                net.zero_grad()
                net(torch.rand(8, 1, 4, 4), 8.0).sum().backward()
                assert net.training and all(p.grad is not None for p in net.parameters())
        finally:
            stop.set()
            thread.join()
        assert seen and all(seen)
