"""What can be chosen of sampling, declared apart from the computation, so that a command's help
does not load it."""

# Those that go step by step, of `diffusion.samplers.SAMPLERS`; Heun's, with two evaluations a step,
# is the reference that the others are compared with.
SAMPLER_NAMES = ('euler', 'unipc', 'unipc_wan')
LARGEST_GUIDANCE = 20.0
