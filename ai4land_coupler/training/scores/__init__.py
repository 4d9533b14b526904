"""What an emulator is worth: scores beside baselines, drawings, the model card."""
