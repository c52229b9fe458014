"""The demo: a real model ranks the embedded shop's requests in every arm, and how well it does so is measured."""
