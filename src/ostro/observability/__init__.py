"""What operators watch: metrics today. Torch-free; the engine never knows who watches."""
