"""The settings of an experiment: every one with its type, its default and its documentation.

A config file in `configs/` starts from `config_files.default_config()` and changes what differs.
`config_files.read_config` turns the result into a `Config`, refusing what is unknown, missing or
out of range; all code reads
`config.data.clip_frames` and the like. Settings that are marked `free` may change when a run is
restarted in its folder: they say how long a run lasts, where it runs and what it shows, not what it
learns.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.proposal import Decoding
from maskflow_jax.sampling.samplers import MGM
from maskflow_jax.sampling.types import Sampler
from maskflow_jax.scenes.settings import ConditionsRecord, ScenesConfig

FORMAT = 3  # of a run's config.json; 1 and 2 had other sections and other samplers

FREE = {"free": True}


def free(default: Any) -> Any:
    """Returns a dataclass field that may change when a run is restarted."""
    return dataclasses.field(default=default, metadata=FREE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data.

    Attributes:
        directory: Folder of the dataset.
        tokenizer: Folder or shipped name of the tokenizer, for previews and samples.
        clip_frames: Number of frames k of a clip, the training window.
        batch_size: Number of clips of a batch, over all devices.
        num_workers: Number of processes that read data; 0 reads in the training process.
        validation_split: Split on which the model is validated; "train" for a dataset without any
            other, whose validation figures are then those of training clips.
        source: What the dataset must say that it was made from, such as `{"fps": 8.0}`.
    """

    directory: str = free("")
    tokenizer: str = free("")
    clip_frames: int = 16
    batch_size: int = 16
    num_workers: int = free(0)
    validation_split: str = free("test")
    source: Mapping = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        refuse(
            "", self, {"clip_frames": (1, None), "batch_size": (1, None), "num_workers": (0, None)}
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network; `models.latte.LatteConfig` has the details.

    Attributes:
        variant: Named size such as "B/2", which replaces the next four settings; None uses them.
        depth: Number of blocks, half of them spatial and half temporal.
        width: Number of channels D.
        num_heads: Number of attention heads.
        patch_size: Side in tokens of the square that becomes one patch.
        mlp_ratio: Hidden width of the MLPs over D.
        time_conditioning: Whether blocks see the times of the frames; otherwise they see time 0.
        dtype: Type of the matrix products, "float32" or "bfloat16".
        remat: What the backward pass recomputes: "none", "dots" or "full".
        attention: Attention kernel: "auto", "xla" or "cudnn".
        isolated_context: Whether a clean frame attends to clean frames only.
    """

    variant: str | None = None
    depth: int = 12
    width: int = 384
    num_heads: int = 6
    patch_size: int = 2
    mlp_ratio: int = 4
    time_conditioning: bool = True
    dtype: str = "float32"
    remat: str = free("dots")
    attention: str = free("auto")
    isolated_context: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmoidConfig:
    """Parameters of the schedule "sigmoid".

    Attributes:
        start: Argument of the sigmoid at time 0.
        end: Argument of the sigmoid at time 1.
        tau: Temperature of the sigmoid.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CubicConfig:
    """Parameters of the schedule "cubic".

    Attributes:
        a: Slope at time 0.
        b: Slope at time 1.
    """

    a: float = 0.0
    b: float = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SNRConfig:
    """Parameters of the weighting "snr".

    Attributes:
        fused: Whether a running mean over the frames before joins a frame's own ratio.
        decay: Decay of that mean per frame.
        clip: Largest ratio.
        form: "released" or "paper".
    """

    fused: bool = True
    decay: float = 0.8
    clip: float = 6.0
    form: str = "released"

    def __post_init__(self):
        refuse("", self, {"decay": (0, 1), "clip": (0, None)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The training objective.

    Attributes:
        schedule: Noise schedule, a key of `flow.schedules.SCHEDULES`.
        sigmoid: Parameters of the schedule "sigmoid".
        cubic: Parameters of the schedule "cubic".
        frame_times: Distribution of the training times, a key of `flow.frame_times.FRAME_TIMES`.
        weighting: Loss weight of a frame, a key of `flow.weighting.WEIGHTINGS`.
        snr: Parameters of the weighting "snr".
        mask_ce: Whether only masked positions enter the loss.
        frame_block: Number of frames of a clip on which the vocabulary head runs at one time.
    """

    schedule: str = "sigmoid"
    sigmoid: SigmoidConfig = SigmoidConfig()
    cubic: CubicConfig = CubicConfig()
    frame_times: str = "frame"
    weighting: str = "snr"
    snr: SNRConfig = SNRConfig()
    mask_ce: bool = True
    frame_block: int = free(1)

    def __post_init__(self):
        refuse("", self, {"frame_block": (1, None)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, AdamW with gradient clipping; the defaults are the paper's.

    Attributes:
        learning_rate: Learning rate after the warm-up.
        warmup_steps: Number of steps over which the rate grows linearly from 0.
        decay_steps: Number of steps, warm-up included, over which the rate falls along a cosine to
            `final_learning_rate_fraction` of itself; 0 keeps it constant. A run may go on with
            another number, so that it can be prolonged.
        final_learning_rate_fraction: Share of the learning rate that is left after the decay.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest global norm of the gradient.
        ema_decay: Decay of the moving average of the parameters, per step.
        ema_warmup: Whether the decay starts low and grows as (1 + step) / (10 + step), so that
            short runs forget their initialisation.
        micro_batches: Number of parts that a batch is processed in, one after the other; their
            gradients add up to the whole batch's, in less memory.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    decay_steps: int = free(0)
    final_learning_rate_fraction: float = free(0.0)
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 2.0
    ema_decay: float = 0.9999
    ema_warmup: bool = False
    micro_batches: int = free(1)

    def __post_init__(self):
        refuse(
            "",
            self,
            {
                "learning_rate": (0, None),
                "warmup_steps": (0, None),
                "decay_steps": (0, None),
                "final_learning_rate_fraction": (0, 1),
                "beta1": (0, 1),
                "beta2": (0, 1),
                "weight_decay": (0, None),
                "clip_norm": (1e-12, None),
                "ema_decay": (0, 1),
                "micro_batches": (1, None),
            },
        )
        if self.decay_steps and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps is {self.decay_steps}, which the warm-up of {self.warmup_steps} "
                "steps uses up; raise decay_steps, or set it to 0 for a constant rate"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long to train, and when to look.

    Attributes:
        num_steps: Number of optimizer steps in all.
        log_every: Number of steps between log lines.
        eval_every: Number of steps between validations; the model is also validated at the end.
        checkpoint_every: Number of steps between checkpoints; one is also saved at the end.
        hook_every: Number of steps between calls of the hooks; they are also called at the end.
        keep_checkpoints: Number of newest checkpoints that are kept.
        initial_weights: Run, exported model or shipped name whose averaged parameters a new run
            starts from; empty for random ones.
        wandb: Project of Weights & Biases that metrics go to as well; empty for none.
    """

    num_steps: int = free(200_000)
    log_every: int = free(100)
    eval_every: int = free(5_000)
    checkpoint_every: int = free(5_000)
    hook_every: int = free(5_000)
    keep_checkpoints: int = free(2)
    initial_weights: str = ""
    wandb: str = free("")

    def __post_init__(self):
        numbers = [field.name for field in dataclasses.fields(self) if field.type is int]
        refuse("", self, dict.fromkeys(numbers, (1, None)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are arranged; -1 stands for all that are left.

    Attributes:
        data: Number of groups that work on different clips.
        fsdp: Number of devices that share parameters and work on different clips.
        tensor: Number of devices that share the work on one clip.
    """

    data: int = free(-1)
    fsdp: int = free(1)
    tensor: int = free(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How previews and samples are made unless a caller says otherwise.

    Attributes:
        context_frames: Number of context frames m of a window.
        stride: Number of new frames s kept per window; None for k - m (rolling: 1).
        sampler: The sampler, `{"name": ...}` with the settings of its dataclass.
        decoding: Temperature, top-k and top-p.
        guidance: Partial context guidance.
        context_time: Time of the context; below 1 the network is shown a re-corrupted context.
        context_cache: Whether a window's context is evaluated once instead of at every step.
        frame_block: Number of frames whose logits exist at one time.
    """

    context_frames: int = free(2)
    stride: int | None = free(None)
    sampler: Sampler = dataclasses.field(default=MGM(), metadata=FREE)
    decoding: Decoding = dataclasses.field(default=Decoding(), metadata=FREE)
    guidance: Guidance = dataclasses.field(default=Guidance(), metadata=FREE)
    context_time: float = free(1.0)
    context_cache: bool = free(False)
    frame_block: int = free(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """Identity of the tokenizer that made the data, as `Tokenizer.identity` gives it.

    Attributes:
        name: Name of its folder.
        sha256: Digest of its files.
        codebook_size: Number of token values K.
        grid: Height and width of a frame in tokens.
        frame_size: Side of a frame in pixels.
    """

    name: str = free("")
    sha256: str = ""
    codebook_size: int
    grid: tuple
    frame_size: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of an experiment.

    Attributes:
        seed: Seed of initialisation, data order, times and masks.
        data: The data.
        model: The network.
        scenes: Several scenes in a window, each with its condition.
        flow: The training objective.
        optimizer: The optimizer.
        run: How long to train, and when to look.
        mesh: How the devices are arranged.
        sampling: How previews and samples are made.
        tokenizer: The tokenizer that made the data; set when a run starts.
        conditions: What turns captions into conditions; set when a run with scenes starts.
        format: Format of this file; set when a run starts.
    """

    seed: int = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    scenes: ScenesConfig = ScenesConfig()
    flow: FlowConfig = FlowConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()
    mesh: MeshConfig = MeshConfig()
    sampling: SamplingConfig = SamplingConfig()
    tokenizer: TokenizerRecord | None = None
    conditions: ConditionsRecord | None = None
    format: int = FORMAT

    def __post_init__(self):
        refuse("", self, {"seed": (0, 2**32 - 1)})
