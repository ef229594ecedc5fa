"""What 8 fake devices do, found out in a process of its own and written down for the tests.

One device is a mesh of the first of them. The weights are random ones, none zero: in a model as it
is initialised every block is the identity, and a block that is split wrongly would not show.
"""

import contextlib
import functools
import json
import logging
import re
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import tiny
from distributions import window_sampler
from flax import nnx
from jax.sharding import AxisType, Mesh

from maskflow_jax.config import OptimizerConfig
from maskflow_jax.config_files import to_dict
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.pipeline import clip_batches
from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.parallel import sharding
from maskflow_jax.sampling.types import RolloutRequest, Window, WindowTokens
from maskflow_jax.training.building import make_flow, model_builder
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.state import init_state
from maskflow_jax.training.steps import make_eval_step, make_train_step

# So many codes that no other array of the model has the shape of the head's kernel.
K, WIDTH, PATCH, BATCH, STEPS = 40, 16, 2, 8, 5
HEAD = (WIDTH, PATCH**2 * K)
# data, fsdp, tensor; patch size, micro-batches. The places of a patch are split over `tensor` where
# it divides their number.
CASES = {
    "one device": ((1, 1, 1), PATCH, 1),
    "data": ((8, 1, 1), PATCH, 1),
    "fsdp": ((1, 8, 1), PATCH, 1),
    "data and tensor, micro-batches": ((2, 1, 4), PATCH, 2),
    "fsdp and tensor": ((1, 2, 4), PATCH, 1),
    "one device, patches of 1": ((1, 1, 1), 1, 1),
    "tensor, patches of 1": ((1, 1, 8), 1, 1),
}
MOVES = {  # checkpoints: written on a mesh, read in a case
    "8 to 1": ((1, 8, 1), "one device"),
    "1 to 8": ((1, 1, 1), "fsdp"),
    "4x2 to 2x4": ((4, 2, 1), "fsdp and tensor"),
}
SAMPLERS = {
    "mgm": window_sampler("mgm", "quadratic", num_steps=3, independent_time=None),
    "fm": window_sampler("fm", "quadratic", num_steps=4, decoding_top_k=K // 2),
}
CONTEXT, LENGTH = 2, 8  # three chunks
VIDEOS = {  # mesh and number; five are filled up to eight
    "one device": ((1, 1, 1), 8),
    "data": ((8, 1, 1), 8),
    "data, five videos": ((8, 1, 1), 5),
    "fsdp and tensor": ((1, 2, 4), 8),
}


def make_mesh(shape):
    """`sharding.make_mesh` wants all devices; this one takes as many as it needs."""
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def config_of(patch_size):
    return tiny.tiny_config(
        model__patch_size=patch_size, tokenizer={**tiny.TOKENIZER, "codebook_size": K}
    )


def optimizer_config(micro_batches=1):
    return OptimizerConfig(learning_rate=1e-3, ema_decay=0.9, micro_batches=micro_batches)


@functools.cache
def network(patch_size):
    """Graph definition and random weights, on the host."""
    build = model_builder(config_of(patch_size))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    return graphdef, tiny.random_params(lambda: build(nnx.Rngs(0)), scale=0.2)


def initial_state(patch_size):
    """On the host, so that no initialisation is compiled."""
    _, params = network(patch_size)
    shapes = jax.eval_shape(make_optimizer(optimizer_config()).init, params)
    return {
        "step": np.zeros((), np.int32),
        "params": params,
        "ema_params": params,
        "opt_state": jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes),
    }


def place(mesh, state):
    return jax.device_put(tiny.host_copy(state), sharding.state_shardings(mesh, state))


def batches():
    return np.random.default_rng(0).integers(0, K, (STEPS + 1, BATCH, 4, 4, 4))


class Training:
    """The train step of one case."""

    def __init__(self, name):
        shape, self.patch_size, micro_batches = CASES[name]
        self.mesh, self.key = make_mesh(shape), jax.random.key(1)
        config, settings = config_of(self.patch_size), optimizer_config(micro_batches)
        self.step = make_train_step(
            network(self.patch_size)[0],
            make_flow(config),
            make_optimizer(settings),
            settings,
            self.state(),
        )

    def state(self):
        return place(self.mesh, initial_state(self.patch_size))

    def arguments(self, state, index):
        return state, self.key, sharding.place_batch(self.mesh, batches()[index])

    def run(self):
        """What the first steps give, and the state after them."""
        before = programs_of("train_step")
        state, losses, deleted = self.state(), [], []
        for index in range(STEPS):
            given = jax.tree.leaves(state)
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*donated")
                state, metrics = self.step(*self.arguments(state, index))
            losses.append(float(metrics["loss"]))
            deleted += [leaf.is_deleted() for leaf in given]
        (program,) = programs_of("train_step") - before
        found = {
            "losses": losses,
            "compilations": self.step._cache_size(),
            "donated": all(deleted),
            "placed by the rules": placed_by_the_rules(self.mesh, state),
            "whole head": HEAD in shapes_of(program) or HEAD[::-1] in shapes_of(program),
            "exchanged": collectives(program),
        }
        return found, state

    def next_loss(self, state):
        return float(self.step(*self.arguments(state, STEPS))[1]["loss"])


def placed_by_the_rules(mesh, state):
    return all(
        leaf.sharding.is_equivalent_to(place, leaf.ndim)
        for leaf, place in zip(
            jax.tree.leaves(state),
            jax.tree.leaves(sharding.state_shardings(mesh, state)),
            strict=True,
        )
    )


def programs_of(name):
    """The texts of all compiled programs of functions of that name."""
    modules = [program.hlo_modules()[0] for program in jax.devices()[0].client.live_executables()]
    return {module.to_string() for module in modules if module.name == f"jit_{name}"}


def shapes_of(program):
    """Shapes of all float32 arrays in a compiled program, as one device holds them."""
    found = re.findall(r"f32\[([\d,]+)\]", program)
    return {tuple(int(size) for size in shape.split(",")) for shape in found}


def collectives(program):
    """Which collectives a compiled program has inside and outside of loops."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", program))
    found, computation = {"loops": set(), "elsewhere": set()}, None
    for line in program.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = begins[1]
        names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
        if collective := re.search(rf" ({names})(?:-start)?\(", line):
            found["loops" if computation in bodies else "elsewhere"].add(collective[1])
    return {where: sorted(names) for where, names in found.items()}


def train_everywhere(folder):
    """Losses in all cases, then what becomes of checkpoints that move between meshes."""
    trainings = {name: Training(name) for name in CASES}
    found, states = {}, {}
    for name, training in trainings.items():
        found[name], states[name] = training.run()
    end = tiny.host_copy(states["one device"])
    moved = {name: move(folder / name, end, trainings[to], at) for name, (at, to) in MOVES.items()}
    return found, {"next loss": trainings["one device"].next_loss(end), **moved}


def move(folder, state, training, shape):
    """Saves a state on a mesh, restores it in a training and goes on."""
    tiny.write_videos(folder)
    iterator = clip_batches(
        read_token_dataset(folder, "train"), clip_frames=4, batch_size=4, seed=0
    )
    checkpoints = Checkpoints(folder / "run")
    checkpoints.save(place(make_mesh(shape), state), iterator, to_dict(config_of(PATCH)))
    checkpoints.wait()
    restored = checkpoints.restore(training.state(), iterator)
    checkpoints.close()
    tiny.assert_same(tiny.host_copy(restored), tiny.host_copy(state))
    placed = placed_by_the_rules(training.mesh, restored)
    return {
        "placed by the rules": placed,
        "loss": training.next_loss(restored),
        "compilations": training.step._cache_size(),
    }


def init_and_evaluate():
    """The initial state as training makes it, and the validation measure on two meshes."""
    mesh, config = make_mesh((2, 2, 2)), config_of(PATCH)
    optimizer = make_optimizer(optimizer_config())
    build = model_builder(config)
    _, state = init_state(build, optimizer, jax.random.key(0), mesh)
    graphdef, params = network(PATCH)
    sums = []
    for where in (mesh, make_mesh((1, 1, 1))):
        measure = make_eval_step(graphdef, make_flow(config), where)
        placed = jax.device_put(params, sharding.state_shardings(where, params))
        numbers = np.arange(BATCH)
        numbers[2] = -1
        batch = sharding.place_batch(where, (batches()[0], numbers))
        sums.append(measure(placed, jax.random.key(3), *batch))
    return {
        "placed by the rules": placed_by_the_rules(mesh, state),
        "replicated": sums[0].count.sharding.is_fully_replicated,
        "sums": [np.concatenate(each).tolist() for each in sums],
    }


@contextlib.contextmanager
def compilations_of(name):
    """Lists the compilations of a function of that name."""
    found, logger = [], logging.getLogger("jax._src.dispatch")

    class Listener(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith(f"Finished XLA compilation of jit({name})"):
                found.append(record.getMessage())

    listener = Listener(logging.DEBUG)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield found
    logger.removeHandler(listener)
    logger.setLevel(level)
    logger.propagate = propagate


def sample_everywhere():
    """Tokens of all samplers on one device and on meshes of eight, and what was compiled."""
    context = np.random.default_rng(1).integers(0, K, (BATCH, CONTEXT, 4, 4)).astype(np.int32)
    tokens, compiled, exchanged, largest = {}, {}, {}, {}
    for name, sampler in SAMPLERS.items():
        request = RolloutRequest(video_length=LENGTH, chunk_size=4, context_frames=CONTEXT)
        plan = sampler.sampler.plan(request)
        program = WindowProgram(network(PATCH)[0], sampler, context_frames=CONTEXT, mask_id=K)
        for where, (shape, count) in VIDEOS.items():
            params, before = place_params(shape), programs_of("sample")
            with compilations_of("sample") as compilations:
                chunks = program.sample_videos(params, context[:count], plan, seed=0)
                tokens[f"{name} {where}"] = np.concatenate([context[:count], *chunks], axis=1)
            compiled[f"{name} {where}"] = len(compilations)
            for text in programs_of("sample") - before:
                exchanged[f"{name} {where}"] = collectives(text)
        largest[name] = guarded(program)
    return tokens, {"compiled": compiled, "exchanged": exchanged, "largest token": largest}


def place_params(shape):
    params = network(PATCH)[1]
    return jax.device_put(params, sharding.state_shardings(make_mesh(shape), params))


def window_of(count):
    """Keys, and a window that is all masks but its context."""
    keys = jax.random.split(jax.random.key(5), count)
    known = np.zeros((count, 4, 4, 4), bool)
    known[:, :CONTEXT] = True
    return keys, WindowTokens(np.where(known, 0, K).astype(np.int32), known)


def guarded(program):
    """Samples a window from arrays on the devices, with every transfer forbidden."""
    params = place_params((8, 1, 1))
    inputs = sharding.place_samples(make_mesh((8, 1, 1)), window_of(BATCH))
    with jax.transfer_guard("disallow"):
        run = program._program(CONTEXT, Window(CONTEXT, CONTEXT).stage, sharding.mesh_of(params))
        tokens = run(params, inputs).block_until_ready()
    return int(np.max(tokens))


def logits_differ():
    """Largest difference of logits between one device and parameters split over eight."""
    graphdef, _ = network(PATCH)
    times = np.full((BATCH, 4), 0.5, np.float32)
    logits = []
    for shape in ((1, 1, 1), (1, 2, 4)):
        inputs = sharding.place_samples(make_mesh(shape), (batches()[0], times))

        @jax.jit
        def run(params, tokens, times):
            model = nnx.merge(graphdef, params)
            return model.logits(model.features(tokens, times))

        logits.append(np.asarray(run(place_params(shape), *inputs)))
    return float(np.max(np.abs(logits[0] - logits[1])))


def main(folder):
    assert jax.device_count() == 8
    assert sharding.make_mesh().shape == {"data": 8, "fsdp": 1, "tensor": 1}
    assert sharding.make_mesh(tensor=2).shape == {"data": 4, "fsdp": 1, "tensor": 2}
    losses, moves = train_everywhere(folder)
    tokens, samplers = sample_everywhere()
    findings = {
        "losses": losses,
        "moves": moves,
        "init": init_and_evaluate(),
        "samplers": samplers,
        "logits": logits_differ(),
    }
    np.savez(folder / "tokens.npz", **tokens)
    (folder / "findings.json").write_text(json.dumps(findings))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
