"""A web page for portrait animation, with the HTTP interface of `serve` beside it.

  exp-jax app                                   # open http://127.0.0.1:8771 in a browser of this machine
  exp-jax app --host 0.0.0.0                    # others too; prints the token that they need (or EXP_JAX_TOKEN), user exp_jax
  exp-jax app --export liveportrait=weights/liveportrait

Drop a portrait and a clip, or record yourself; see the fitted head, choose the engine and its
options, watch the progress, fetch the result. It works without a network and loads nothing from
elsewhere. Flags, limits and the folder are those of `exp-jax serve`.
Needs the extra `ui`: pip install "exp_jax[ui]". Exit status: 0 ended by Ctrl-C or SIGTERM, 2 bad
input.
"""

import contextlib
import sys

from exp_jax.errors import exits_cleanly
from exp_jax.studio.serve import needed, parser, run

PORT = 8771


@exits_cleanly
def main(argv=None):
  args = parser(__doc__, PORT).parse_args(argv)
  needed('fastapi', 'uvicorn', 'gradio')
  from exp_jax.studio.page.layout import mount
  from exp_jax.studio.server import make_app

  def with_page(studio, token, hosts):
    return mount(make_app(studio, token=token, hosts=hosts, open_paths=('/',)), studio, token)

  with contextlib.suppress(KeyboardInterrupt):
    run(args, with_page, 'exp_jax shows its page at')
  return 0


if __name__ == '__main__':
  sys.exit(main())
