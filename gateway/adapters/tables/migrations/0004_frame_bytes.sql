-- Size of an alert's frame, and so of its image; null of alerts from before.
ALTER TABLE alerts ADD COLUMN frame_bytes bigint;
