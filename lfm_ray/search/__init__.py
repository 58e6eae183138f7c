"""The search: spaces, samplers, pruning, warm start, selection."""

import logging
import warnings

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Constraints have been set")  # CMA-ES never sees draws that violate one
logging.getLogger("optuna").setLevel(logging.ERROR)
