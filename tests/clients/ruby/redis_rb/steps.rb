# frozen_string_literal: true

# A step is a public method.
class Steps
  def initialize(place, transcript)
    @place = place
    @transcript = transcript
  end

  private

  def client(**options) = @place.client(**options)

  def say(what, value) = @transcript.say(what, value)

  def failure(what, &attempt) = @transcript.failure(what, &attempt)
end
