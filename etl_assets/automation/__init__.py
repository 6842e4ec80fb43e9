"""What starts runs: calendars of partitions, sensors that look at the sources, and the conditions' own sensor."""
