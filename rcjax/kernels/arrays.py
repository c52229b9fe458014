"""The arrays that the public functions take."""

import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray  # NumPy on the host, JAX once a pass takes it
