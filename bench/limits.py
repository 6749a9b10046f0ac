"""What MLX's allocator may keep of freed buffers, the same for both sides of a pair.

It keeps what follows the chip and the device if nobody says otherwise; copies of buffers beyond
that are 2 to 7 times slower, whoever makes them. So that this is not counted as anybody's speed,
the benches run with 1 GiB, and those of big buffers a second time with MLX's own limit.
"""

# In MiB, as `--cache-limit` takes it.
COUNTED = "1024"
DEFAULT = "default"
