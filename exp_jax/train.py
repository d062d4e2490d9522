"""`python -m exp_jax.train` is `exp-jax train`; the command is in exp_jax/commands/train.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.train', run_name='__main__', alter_sys=True)
