"""Fields that can be trained: networks, linear, augmented, second-order and Hamiltonian."""
