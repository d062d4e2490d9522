"""`python -m exp_jax.animate` is `exp-jax animate`; the command is in
exp_jax/commands/animate.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.animate', run_name='__main__', alter_sys=True)
