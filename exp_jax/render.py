"""`python -m exp_jax.render` is `exp-jax render`; the command is in exp_jax/commands/render.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.render', run_name='__main__', alter_sys=True)
