"""What starts runs, and what watches them: calendars, sensors, schedules, alerts, freshness and housekeeping."""
