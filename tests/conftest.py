"""Eight emulated CPU devices, promotions as errors: what is silent elsewhere fails here."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
