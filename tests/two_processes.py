"""One of two processes of 4 emulated devices each: 8 steps of the toy world; process 0 prints ids and parameters as JSON.

Run by test_processes.py: `python -m tests.two_processes PORT RANK`.
"""

import json
import sys
from functools import partial

import jax
import numpy as np


def main(port: str, rank: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    import active_learning as al
    from active_learning import sharding
    from tests import toy

    mesh = al.make_mesh()
    recipe = toy.recipe(mesh=mesh, chunk=4)
    everywhere = sharding.replicated(mesh)
    state = jax.jit(lambda: toy.state(recipe), out_shardings=everywhere)()
    step = jax.jit(partial(al.train_step, recipe))
    ids = []
    for n in range(8):
        whole = jax.device_get(toy.batch(64, seed=n))
        mine = {name: rows[rank * 32 : (rank + 1) * 32] for name, rows in whole.items()}
        batch = {k: jax.make_array_from_process_local_data(sharding.over_data(mesh), v) for k, v in mine.items()}
        state, (_, chosen) = step(state, batch)
        gathered = jax.jit(lambda x: x, out_shardings=everywhere)(chosen.ids)
        ids.append(sorted(np.asarray(gathered).tolist()))
    if rank == 0:
        params = {m: np.asarray(getattr(state, m).params["w"]).tolist() for m in ("learner", "online")}
        print(json.dumps({"ids": ids, "params": params}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
