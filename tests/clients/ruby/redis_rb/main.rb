# frozen_string_literal: true

# The workload of redis-rb. Its arguments are the steps to run, for looking into a failure; without any it runs all.

require_relative "library"
require_relative "values"
require_relative "transactions"
require_relative "messages"
require_relative "connections"

ROUNDS = 2

place = Place.new
transcript = Transcript.new(place)
steps = [Values, Transactions, Messages, Connections].map { |kind| kind.new(place, transcript) }

ROUNDS.times do |round|
  cleaner = place.client
  cleaner.flushall
  cleaner.script(:flush)
  steps.each do |kind|
    kind.class::STEPS.each do |step|
      next unless ARGV.empty? || ARGV.include?(step.to_s)

      transcript.step = "#{round}/#{step}"
      kind.public_send(step)
    end
  end
  cleaner.close
end
puts "done"
