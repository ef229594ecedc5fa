"""The samplers by name. To add one, write a file with a dataclass like `fm.FM`, and its row here.

MGM       the most confident tokens first, a planned number per step
FM        the continuous-time chain, all frames together
Pyramid   the chain, every frame one step behind the one before (Diffusion Forcing)
Rolling   the chain in a rolling window (rolling diffusion)
ReMDM     the chain with remasking
Halton    a planned number per step and frame, in a low-discrepancy order
"""

from maskflow_jax.sampling.samplers.fm import FM
from maskflow_jax.sampling.samplers.halton import Halton
from maskflow_jax.sampling.samplers.mgm import MGM
from maskflow_jax.sampling.samplers.pyramid import Pyramid
from maskflow_jax.sampling.samplers.remdm import ReMDM
from maskflow_jax.sampling.samplers.rolling import Rolling

SAMPLERS = {sampler.name: sampler for sampler in (MGM, FM, Pyramid, Rolling, ReMDM, Halton)}
