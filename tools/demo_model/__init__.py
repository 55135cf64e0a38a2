"""Train and measure the bundled demo model."""
