"""The engine, private: how a checked problem becomes a trajectory. Imported by ``solve`` alone."""
